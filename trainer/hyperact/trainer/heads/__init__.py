"""What turns features and an index into action values: one file a head, each with its formula and source."""
