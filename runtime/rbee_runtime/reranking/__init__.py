"""What a caller asks of a reranker, what it says meanwhile, and how it reads two texts as one."""
