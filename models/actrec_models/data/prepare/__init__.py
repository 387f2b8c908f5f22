"""`actrec prepare`: reads a dataset once into a store."""
