"""Rows of codes one number after another, from the formulas alone."""

import torch


def make_row(model, codebook, code, end):
    """Row of a code in the embedding or in the head of a model with code vectors."""
    geometry = model.geometry
    matrix = getattr(geometry, end)[codebook]
    learned = model.embedding.weight[codebook * 1026 + code]
    row = []
    for d in range(model.config.dim):
        made = sum(
            geometry.vectors[codebook, code, z] * matrix[z, d] for z in range(matrix.shape[0])
        )
        row.append(made + geometry.leash[codebook, 0, 0] * learned[d])
    return torch.stack(row)


def embed(model, cells):
    """Sum of the rows of one step's cells; special tokens have learned rows alone."""
    rows = [
        make_row(model, k, int(cell), "embedding")
        if cell < 1024
        else model.embedding.weight[k * 1026 + int(cell)]
        for k, cell in enumerate(cells)
    ]
    return torch.stack(rows).sum(dim=0)


def logit(model, hidden, codebook, code):
    """Logit of one code at one step."""
    row = make_row(model, codebook, code, "head")
    return (hidden * row).sum() + model.head.bias[codebook * 1024 + code]
