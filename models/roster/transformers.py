"""Architectures of Hugging Face's `transformers`, with small configurations and random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.roster import Entry
from models.roster.export import EXPORTERS, enliven, export, taking_tensors
from models.roster.torchvision import import_torchvision

if TYPE_CHECKING:
    import torch

WORDS, LENGTH, SIDE = 96, 16, 64

# Two layers, four heads. A configuration takes from these what it has a name for.
SMALL: Mapping[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
    "image_size": SIDE,
    "num_labels": 10,
    "use_cache": False,
    "attn_implementation": "eager",
    "experts_implementation": "batched_mm",
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ENCODER = {"encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 128}
DECODER = {"decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 128}
BOTH = {**ENCODER, **DECODER, "d_model": 64, "decoder_start_token_id": 2}
GROUPED = {"num_key_value_heads": 2, "head_dim": 16}
EXPERTS = {**GROUPED, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
SPEECH = {"conv_dim": (32, 32), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_feat_extract_layers": 2}
SPEECH |= {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
TOWERS = {name: {**SMALL, "projection_dim": 32} for name in ("text_config", "vision_config")}
BACKBONE = {"model_type": "resnet", "embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 1]}
BACKBONE |= {"layer_type": "basic", "out_features": ["stage2"]}
STAGES = {"hidden_sizes": [16, 32], "depths": [2, 2], "num_stages": 2, "out_features": None}


def _first(network: Any, *tensors: torch.Tensor) -> Any:
    return network(*tensors)[0]


def _masked(network: Any, words: torch.Tensor, mask: torch.Tensor) -> Any:
    return network(words, attention_mask=mask)[0]


def _boxes(network: Any, image: torch.Tensor) -> Any:
    found = network(image)
    return found.logits, found.pred_boxes


def _both(network: Any, source: torch.Tensor, target: torch.Tensor) -> Any:
    mask = (target >= 0).long()  # given, because how it would be made up cannot be exported
    return network(**{network.main_input_name: source}, decoder_input_ids=target, decoder_attention_mask=mask)[0]


def _likeness(network: Any, words: torch.Tensor, image: torch.Tensor) -> Any:
    found = network(input_ids=words, pixel_values=image)
    return found.logits_per_image, found.text_embeds, found.image_embeds


# Input name → (element type, shape, axes left open).
WORDS_AXES = {0: "batch", 1: "sequence"}
WORD = {"words": ("ids", (1, LENGTH), WORDS_AXES)}
MASK = {"mask": ("mask", (1, LENGTH), WORDS_AXES)}
TARGET = {"target": ("ids", (1, LENGTH), {0: "batch", 1: "target_sequence"})}
IMAGE = {"image": ("values", (1, 3, SIDE, SIDE), {0: "batch"})}
SOUND = {"sound": ("values", (1, 1600), {0: "batch"})}
SPECTRUM = {"spectrum": ("values", (1, 16, 64), {0: "batch"})}
# For a kind of model: what it is called with, and how.
KINDS: Mapping[str, tuple[Mapping[str, Any], Callable[..., Any]]] = {
    "MaskedLM": (WORD | MASK, _masked),
    "CausalLM": (WORD | MASK, _masked),
    "Seq2SeqLM": (WORD | TARGET, _both),
    "ImageClassification": (IMAGE, _first),
    "SemanticSegmentation": (IMAGE, _first),
    "ObjectDetection": (IMAGE, _boxes),
    "CTC": (SOUND, _first),
    "SpeechSeq2Seq": (SPECTRUM | TARGET, _both),
    "ZeroShotImageClassification": (WORD | IMAGE, _likeness),
}
FAMILIES = {
    "MaskedLM": "encoders",
    "CausalLM": "decoders",
    "Seq2SeqLM": "encoder-decoders",
    "SpeechSeq2Seq": "speech",
    "CTC": "speech",
    "ZeroShotImageClassification": "text and image",
    "ImageClassification": "vision",
    "SemanticSegmentation": "dense vision",
    "ObjectDetection": "dense vision",
}
# What an exporter, the newer one or not, cannot do: the older one writes a graph of cohere that onnxruntime cannot run.
UNEXPORTABLE: Mapping[bool, Sequence[str]] = {False: ("cohere", "mobilevitv2"), True: ("mamba", "rwkv")}
# Model type → kind, and what its configuration needs beside `SMALL`.
MODELS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "MaskedLM": {
        "bert": {},
        "distilbert": {"hidden_dim": 128},
        "roberta": {},
        "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
        "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
        "albert": {"embedding_size": 32},
        "electra": {"embedding_size": 32},
        "mpnet": {},
        "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 16},
        "squeezebert": {"embedding_size": 64},
        "xlm-roberta": {},
    },
    "CausalLM": {
        "gpt2": {},
        "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
        "gpt_neox": {},
        "gptj": {"rotary_dim": 8},
        "opt": {"ffn_dim": 128, "word_embed_proj_dim": 64},
        "bloom": {},
        "falcon": {},
        "llama": GROUPED,
        "mistral": GROUPED,
        "qwen2": GROUPED,
        "qwen3": GROUPED,
        "gemma": GROUPED,
        "gemma2": GROUPED | {"query_pre_attn_scalar": 16},
        "gemma3_text": GROUPED | {"query_pre_attn_scalar": 16},
        "phi": {},
        "phi3": GROUPED,
        "olmo2": GROUPED,
        "stablelm": {"num_key_value_heads": 4},
        "starcoder2": GROUPED,
        "cohere": GROUPED,
        "granite": GROUPED,
        "smollm3": GROUPED,
        "mixtral": EXPERTS,
        "qwen2_moe": EXPERTS | {"shared_expert_intermediate_size": 64},
        "qwen3_moe": EXPERTS,
        "olmoe": EXPERTS,
        "mamba": {"state_size": 8},
        "rwkv": {"attention_hidden_size": 64, "context_length": 64},
    },
    "Seq2SeqLM": {
        "t5": {"d_model": 64, "d_kv": 16, "d_ff": 128},
        "bart": BOTH,
        "marian": BOTH,
        "pegasus": BOTH,
        "mbart": BOTH,
        "m2m_100": BOTH,
    },
    "SpeechSeq2Seq": {"whisper": BOTH | {"num_mel_bins": 16, "max_source_positions": 32, "max_target_positions": 64}},
    "CTC": {"wav2vec2": SPEECH, "hubert": SPEECH},
    "ZeroShotImageClassification": {"clip": TOWERS | {"projection_dim": 32}, "siglip": TOWERS},
    "ImageClassification": {
        "vit": {},
        "deit": {"architectures": ["DeiTForImageClassification"]},
        "beit": {},
        "dinov2": {},
        "swin": {"embed_dim": 32, "depths": [2, 2], "num_attention_heads": [2, 4], "window_size": 4},
        "swinv2": {"embed_dim": 32, "depths": [2, 2], "num_attention_heads": [2, 4], "window_size": 4},
        "convnext": STAGES,
        "convnextv2": STAGES,
        "mobilevit": {"hidden_sizes": [32, 48, 64], "neck_hidden_sizes": [16, 16, 24, 32, 48, 64, 128]},
        "mobilevitv2": {"base_attn_unit_dims": [32, 48, 64], "n_attn_blocks": [1, 1, 1]},
        "mobilenet_v1": {"depth_multiplier": 0.5},
        "mobilenet_v2": {"depth_multiplier": 0.5},
        "efficientnet": {"width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640},
        "resnet": {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [2, 2]},
        "poolformer": {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]},
        "levit": {
            "architectures": ["LevitForImageClassification"],
            "num_attention_heads": [2, 3, 4],
            "hidden_sizes": [32, 48, 64],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
        },
        "pvt": {"num_attention_heads": [1, 2, 3, 4], "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]},
        "focalnet": {"embed_dim": 32, "depths": [2, 2], "focal_levels": [2, 2], "focal_windows": [3, 3]},
        "cvt": {},
    },
    "SemanticSegmentation": {
        "segformer": {
            "num_attention_heads": [1, 2, 3, 4],
            "hidden_sizes": [16, 32, 48, 64],
            "depths": [1, 1, 1, 1],
            "decoder_hidden_size": 64,
        },
        "dpt": {
            "num_hidden_layers": 4,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [16, 32, 48, 64],
            "fusion_hidden_size": 32,
        },
    },
    "ObjectDetection": {
        "detr": BOTH | {"num_queries": 10, "use_timm_backbone": False, "backbone_config": BACKBONE},
        "yolos": {"image_size": [SIDE, SIDE], "num_detection_tokens": 10},
    },
}


def build(path: Path, name: str, kind: str, dynamo: bool) -> None:
    """Export a small model of type `name` to `path`."""
    import torch

    with suppress(ModuleNotFoundError):
        import_torchvision()  # transformers imports it where it is installed
    import transformers

    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(name, **{**SMALL, **MODELS[kind][name]})
    network = getattr(transformers, f"AutoModelFor{kind}").from_config(config, attn_implementation="eager")
    inputs, call = KINDS[kind]
    tensors = taking_tensors(network, call)
    makers = {"ids": partial(torch.randint, 3, WORDS), "mask": partial(torch.randint, 1, 2), "values": torch.randn}
    example = [makers[what](shape) for what, shape, _ in inputs.values()]
    enliven(tensors, example)
    export(path, tensors, example, open_sizes={key: axes for key, (*_, axes) in inputs.items()}, dynamo=dynamo)


ENTRIES = tuple(
    Entry(
        f"transformers/{name}{'@dynamo' if dynamo else ''}",
        f"transformers, {FAMILIES[kind]}",
        f"transformers AutoModelFor{kind}, {name}, small, {EXPORTERS[dynamo]}",
        partial(build, name=name, kind=kind, dynamo=dynamo),
        # Tracing fixes some lengths without saying so; the newer exporter names sizes by itself.
        {}
        if dynamo
        else {size: LENGTH for *_, axes in KINDS[kind][0].values() for size in axes.values() if size != "batch"},
    )
    for kind, names in MODELS.items()
    for name in names
    for dynamo in (False, True)
    if name not in UNEXPORTABLE[dynamo]
)
