"""What graphprune's speed is measured with."""
