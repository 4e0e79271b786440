"""Data in other people's formats on disk, as Observations."""
