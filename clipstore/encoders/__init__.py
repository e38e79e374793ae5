"""From a model's files to vectors: locating and fingerprinting the files, image and text preprocessing, both towers.

Only this package imports transformers and peft. Fingerprints, checks and packing import no torch.
"""

from clipstore.network import disable_hub_telemetry

disable_hub_telemetry()  # before the first import of huggingface_hub, which reads the setting
