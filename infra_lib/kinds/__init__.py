"""What sentences and tokens are, by written rules; their influence; and text without a kind of sentence.

``sentences`` sorts sentences, ``tokens`` sorts tokens, ``influence`` averages scores by what they belong
to, ``removal`` takes exploratory sentences out of training examples.
"""
