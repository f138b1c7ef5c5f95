"""Design, map and break hardware for large language models."""
