"""
Models of Llama's and Mistral's shape: transformers' own classes, in the sizes of the published ones.
"""

from __future__ import annotations

from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from pytest_llmbench.engine.models.architecture import Architecture, config_arguments

__all__ = ["llama", "mistral"]


def llama(architecture: Architecture, attention_implementation: str) -> LlamaForCausalLM:
    """
    Args:
        architecture: one of the llama family, or a miniature of one.
        attention_implementation: as transformers names it.
    """
    return LlamaForCausalLM(LlamaConfig(**config_arguments(architecture, attention_implementation)))


def mistral(architecture: Architecture, attention_implementation: str) -> MistralForCausalLM:
    """As `llama`, with a sliding window."""
    config = MistralConfig(
        **config_arguments(architecture, attention_implementation), sliding_window=architecture.sliding_window
    )
    return MistralForCausalLM(config)
