"""LAAT: a language model's scores of the features of a table regularise a small model.

"Large Language Models as Attribution Regularizers for Efficient Model Training" (arXiv 2502.20268). The
idea of CAP with another prior, one for the whole data set instead of one a text, and another attribution, the
plain gradient with respect to the input:

    table, schema ── elicit ─> feature scores ── train ─> student (logistic regression or a small network)
"""
