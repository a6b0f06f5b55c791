"""Tiny trees in the shape of known hosts. Importing one of `HOSTS` would fail, and so show that it was imported."""

from __future__ import annotations

from pathlib import Path

TRAP = "import sys\nsys.modules['a_host_was_imported'] = sys\nraise RuntimeError('imported')\n"
MERGE = "prepare_inputs_labels_for_multimodal"
S6 = (f"{MERGE}(self, input_ids, position_ids, attention_mask, past_key_values, labels, images)", 6)
NEXT = (S6[0].replace("images)", "images, modalities=['image'], image_sizes=None)"), 6)
FIVE = (f"{MERGE}(self, input_ids, attention_mask, past_key_values, labels, images)", 5)
EMBED = ("_embed(self, input_ids, media, media_config, labels, attention_mask)", 3)
#: repository -> adapter, file of the model class, its name, the merge method with the number of values it returns
HOSTS = {
    "LLaVA": ("llava", "llava/model/language_model/llava_llama.py", "LlavaLlamaForCausalLM", S6),
    "LLaVA-NeXT": ("llava", "llava/model/language_model/llava_qwen.py", "LlavaQwenForCausalLM", NEXT),
    "CAL": ("llava", "llava/model/language_model/llava_llama.py", "LlavaLlamaForCausalLM", S6),
    "VIRAL": ("llava", "llava/model/language_model/llava_qwen2.py", "LlavaQwen2ForCausalLM", S6),
    "VILA": ("vila", "llava/model/language_model/llava_llama.py", "LlavaLlamaModel", EMBED),
    "TinyLLaVA_Factory": (
        "tinyllava", "tinyllava/model/modeling_tinyllava.py", "TinyLlavaForConditionalGeneration", S6,
    ),
    "Bunny": ("bunny", "bunny/model/language_model/bunny_phi.py", "BunnyPhiForCausalLM", S6),
    "MoE-LLaVA": ("moellava", "moellava/model/language_model/llava_phi_moe.py", "MoELLaVAPhiForCausalLM", S6),
    "Video-LLaVA": ("videollava", "videollava/model/language_model/llava_llama.py", "LlavaLlamaForCausalLM", S6),
    "ShareGPT4V": ("sharegpt4v", "share4v/model/language_model/share4v_llama.py", "Share4VLlamaForCausalLM", FIVE),
}  # fmt: skip


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def host(model_file: str, model: str, method: tuple[str, int]) -> dict[str, str]:
    """The files of a host: a model class, its merge method in a mixin, a trainer and a training script."""
    package = model_file.partition("/")[0]
    signature, count = method
    values = ", ".join("abcdefghijkl"[:count])
    # Beside its model a host has the decoder, often by the name of VILA's model.
    decoder = "" if model == "LlavaLlamaModel" else "class LlavaLlamaModel(Meta): ...\n"
    return {
        f"{package}/__init__.py": TRAP,
        f"{package}/model/arch.py": f"{TRAP}class Meta:\n    def {signature}:\n        return {values}\n",
        model_file: f"{TRAP}from {package}.model.arch import Meta\nfrom transformers import LlamaForCausalLM\n{decoder}"
        f"class {model}(LlamaForCausalLM, Meta):\n"
        "    def forward(self, input_ids, labels, images): ...\n",
        f"{package}/train/trainer.py": f"{TRAP}class OwnTrainer(transformers.Trainer): ...\n",
        f"{package}/train/train.py": f"{TRAP}def train():\n    transformers.HfArgumentParser((A, B))\n",
    }


def files_of(name: str, **changed: str) -> dict[str, str]:
    """The files of one of `HOSTS`. ``changed`` adds or replaces some."""
    return {**host(*HOSTS[name][1:]), **changed}
