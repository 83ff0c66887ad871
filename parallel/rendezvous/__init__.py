"""How the ranks of a launch find each other, and what their links carry."""
