"""Files, checkpoints and provenance: helpers that any module may import."""
