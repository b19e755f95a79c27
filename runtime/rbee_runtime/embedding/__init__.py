"""Serving a model of embeddings: texts in, a vector of each out."""
