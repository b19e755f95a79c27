"""The Responses API: a chat in items, its answer in typed events."""
