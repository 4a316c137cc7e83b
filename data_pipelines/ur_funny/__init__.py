"""UR-FUNNY: is what a speaker of a TED talk says humorous."""
