"""Text to token ids: SentencePiece models and Hugging Face's tokenizer.json."""
