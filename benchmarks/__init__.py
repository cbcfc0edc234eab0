"""Speed, memory and scaling, each figure a JSON line."""
