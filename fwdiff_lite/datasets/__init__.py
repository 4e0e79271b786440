"""Readers of data sets in common formats: folders of images, videos, and clips with camera poses."""
