"""Inverse graphics (section 4.1): 3-D scenes seen in images."""
