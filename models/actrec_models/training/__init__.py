"""Training by a recipe, on Lightning."""
