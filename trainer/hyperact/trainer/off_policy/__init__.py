"""What a version would have been worth, told from what other versions did: off-policy evaluation."""
