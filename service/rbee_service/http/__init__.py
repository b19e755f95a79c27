"""The worker's HTTP server and its routes."""
