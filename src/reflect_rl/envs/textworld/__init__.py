"""TextWorld's coin and cooking games: needs textworld."""
