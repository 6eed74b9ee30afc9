"""First-party passes, found through the entry-point group ``graphprune.passes`` exactly as a third party's are."""
