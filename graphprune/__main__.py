"""``python -m graphprune``."""

from graphprune.cli import main

main()
