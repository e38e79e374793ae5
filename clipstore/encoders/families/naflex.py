"""NaFlex SigLIP 2 (Tschannen et al., 2025), at an image's own aspect ratio: transformers' Siglip2Model.

An image is resized to whole patches, at most a given number, and padded with masked patches; position embeddings are
interpolated to its rows and columns of patches. Texts are those of SigLIP.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from clipstore.encoders.families.base import Config, Normalize, Pixels, Shape, Towers, loaded, sized
from clipstore.encoders.families.clip import sample_tokens
from clipstore.encoders.families.siglip import Siglip
from clipstore.encoders.images import AnyPreprocessing, PatchPreprocessing, read_patch_preprocessing
from clipstore.encoders.model_files import preprocessor_file
from clipstore.errors import ModelError

if TYPE_CHECKING:
    import torch


class Naflex(Siglip):
    """SigLIP 2 models of flexible resolution."""

    title = "a NaFlex SigLIP 2 model"
    model_type = "siglip2"
    sizes: ClassVar = {"text": Siglip.sizes["text"], "vision": sized(num_patches=256, patch_size=16, num_channels=3)}

    has_input_size = False

    def read_preprocessing(self, folder: Path, towers: Towers) -> AnyPreprocessing:
        file, patch = preprocessor_file(folder), self.size(towers, "vision", "patch_size")
        preprocessing = read_patch_preprocessing(file)
        if preprocessing.patch != patch:
            message = (
                f"{file} cuts images into patches of {preprocessing.patch} pixels, but the model expects {patch} "
                f"(patch_size in {self.config_file(folder)}): use the preprocessor_config.json that belongs to the "
                "weights"
            )
            raise ModelError(message)
        return preprocessing

    def check_config(self, file: Path, config: Config, towers: Towers) -> None:
        super().check_config(file, config, towers)
        patches = self.size(towers, "vision", "num_patches")
        if int(patches**0.5) ** 2 != patches:
            message = (
                f"{file}: num_patches = {patches} in vision_config: expected a square, that of a grid of positions"
            )
            raise ModelError(message)

    def _embedding_shapes(self, towers: Towers) -> dict[str, Shape]:
        vision = {key: self.size(towers, "vision", key) for key in self.sizes["vision"]}
        return {
            "vision_model.embeddings.patch_embedding.weight": (
                *(vision["hidden_size"], vision["num_channels"] * vision["patch_size"] ** 2),
            ),
            "vision_model.embeddings.position_embedding.weight": (vision["num_patches"], vision["hidden_size"]),
        }

    def load(self, folder: Path, config: Config) -> tuple[Any, Sequence[str]]:
        from transformers import Siglip2Config, Siglip2Model

        return loaded(Siglip2Model, Siglip2Config, folder, config, attn_implementation="sdpa")

    def image_tokens(self, towers: Towers, preprocessing: AnyPreprocessing) -> int:
        assert isinstance(preprocessing, PatchPreprocessing)
        return preprocessing.max_patches

    def image_inputs(
        self, preprocessing: AnyPreprocessing, pixels: Pixels, normalize: Normalize
    ) -> tuple[torch.Tensor, ...]:
        """Patches (B, N, 3 patch²) of images of different sizes, their mask (B, N), and rows and columns (B, 2)."""
        import torch

        assert isinstance(preprocessing, PatchPreprocessing)
        patch, images = preprocessing.patch, [normalize(image[None])[0] for image in pixels]
        shapes = [(image.shape[1] // patch, image.shape[2] // patch) for image in images]
        longest = max(rows * columns for rows, columns in shapes)
        patches = images[0].new_zeros(len(images), longest, patch * patch * 3)
        mask = torch.zeros(len(images), longest, dtype=torch.long, device=patches.device)
        for number, (image, (rows, columns)) in enumerate(zip(images, shapes, strict=True)):
            grid = image.view(3, rows, patch, columns, patch).permute(1, 3, 2, 4, 0)
            patches[number, : rows * columns] = grid.reshape(rows * columns, -1)
            mask[number, : rows * columns] = 1
        return patches, mask, torch.tensor(shapes)

    def encode_image(self, model: Any, *inputs: torch.Tensor) -> torch.Tensor:
        patches, mask, shapes = inputs
        output = model.vision_model(pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=shapes)
        return cast("torch.Tensor", output.pooler_output)

    def sample_outputs(self, model: Any) -> dict[str, torch.Tensor]:
        import torch

        vision = model.config.vision_config
        patches = torch.linspace(-1, 1, 4 * 3 * vision.patch_size**2).view(1, 4, -1)
        inputs = patches, torch.ones(1, 4, dtype=torch.long), torch.tensor([[2, 2]])
        return {"image": self.encode_image(model, *inputs), "text": self.encode_text(model, sample_tokens(model))}
