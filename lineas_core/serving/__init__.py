"""An HTTP server for clients of OpenAI's API: steered completions and chat answers."""
