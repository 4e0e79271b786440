"""The figures and tables of the notebooks: one module for each. Only notebooks and the README import them."""
