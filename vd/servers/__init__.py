"""OpenAI-compatible servers: asked only what is missing, within a budget, whatever they answer."""
