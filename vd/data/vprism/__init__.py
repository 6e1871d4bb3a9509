"""V-PRISM: value-laden questions out of opening prompts."""
