"""Anthropic's Messages API: a chat in blocks, its answer in blocks too."""
