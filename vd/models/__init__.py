"""Language models, tokenizers and sentence encoders, by source."""
