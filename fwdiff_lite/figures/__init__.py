"""The figures and tables of the notebooks, one module a notebook. Notebooks import them; README takes the tables."""
