"""The command line: verbs, the flags made of the options, and what is said."""
