"""From a model's files to vectors: where the files lie, what decides their output, photos to pixels, and the towers.

This room alone imports transformers and peft; describing a model, and packing texts, import no torch.
"""
