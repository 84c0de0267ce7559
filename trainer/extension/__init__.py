"""Tokenizer extension: pieces learned on a corpus, put behind a tokenizer's own, with a row of weights for each.

texts.py reads documents, pieces.py learns, vocabulary.py writes tokenizer.json, rows.py writes weights. A *piece* is a new token;
its *parts* are the old tokens that it stands for."""
