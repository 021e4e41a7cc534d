"""`hyperact demo`: the whole loop on one machine, of DeepSea or of a contextual bandit."""
