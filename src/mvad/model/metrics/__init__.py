"""Evaluation metrics: AUROC, AP, F1-max and AUPRO, with confidence intervals."""
