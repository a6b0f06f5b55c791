"""Part "right": values, gradients and bit-identity on the device, and the ways of training that GPUs are used with."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from cases import METHODS, PUBLISHED, make_case
from findings import NOT_RUN, Findings, Options, require
from merging_host import Merging, batch_for, config
from native_models import FAMILIES, LLAVA, Family
from torch import Tensor
from transformers import Trainer, TrainingArguments

from llava_vista import NonFiniteLossError, VistaConfig, attach, install, uninstall
from llava_vista.hooks import listen
from llava_vista.testing import check_adapter

#: Largest relative error of the gradient, by dtype of the inputs, to which it is rounded once; of the value 1e-5.
GRADIENT = {torch.float32: 1e-5, torch.bfloat16: 4e-3, torch.float16: 5e-4}
QWEN = "Qwen2_5_VLForConditionalGeneration"
HOSTS = {
    LLAVA: FAMILIES[LLAVA],
    QWEN: FAMILIES[QWEN],
    "a host that merges": Family(lambda: Merging(config()), lambda: batch_for(Merging)),
}


def run(findings: Findings, options: Options) -> None:
    """Run every check."""
    device = options.device
    torch.backends.cudnn.allow_tf32 = False
    check_objective(findings, options)
    torch.use_deterministic_algorithms(True)  # so that two runs of the host itself are equal bit for bit
    check_trainer(findings, device)
    for name, family in HOSTS.items():
        check = f"conformance kit, {name}"
        with findings.attempt(check):
            # with gradient checkpointing, PEFT and a float64 loop for the term
            outcomes = check_adapter(lambda: family.build().to(device), lambda: to_device(family.batch(), device))  # noqa: B023
            passed = sum(outcome.result == "ok" for outcome in outcomes)
            skipped = [str(outcome) for outcome in outcomes if outcome.result != "ok"]
            findings.add(check, "; ".join([f"{passed} of {len(outcomes)} checks pass", *skipped]))
    torch.use_deterministic_algorithms(False)
    for check, function in {
        "several samples in one row": check_packed_rows,
        "torch.compile": check_compile,
        "fp16, GradScaler, a batch that is not finite": check_scaler,
        "FSDP2 on one device": check_fsdp,
    }.items():
        with findings.attempt(check):
            findings.add(check, function(device))
    findings.add("device_map over two devices, flash attention", "not tried", status=NOT_RUN)


def check_objective(findings: Findings, options: Options) -> None:
    """Compare every estimator with float64 in every precision, and with the published arithmetic where there is one."""
    shape, device = (2, 64, 32) if options.reduced else (4, 512, 1024), options.device
    for method in METHODS:
        for dtype, limit in GRADIENT.items():
            for words in ("", " autocast", " TF32") if dtype == torch.float32 else ("",):
                torch.set_float32_matmul_precision("high" if words == " TF32" else "highest")
                check = f"{method}, {str(dtype).removeprefix('torch.')}{words}: relative errors against float64"
                with findings.attempt(check), torch.autocast(device, torch.bfloat16, enabled=words == " autocast"):
                    found = errors(method, dtype, device, shape)
                    value, gradient = found["ours"]
                    shown = ", ".join(f"{name}: value {v:.1e}, gradient {g:.1e}" for name, (v, g) in found.items())
                    require(value <= 1e-5 and gradient <= limit, f"{shown}; at most 1e-5 and {limit:g} are allowed")
                    has_goal = dtype == torch.bfloat16 and method in PUBLISHED
                    # Both round the gradient once: equal but for the last digits of the norm.
                    met = not has_goal or gradient <= 1.001 * found["published"][1]
                    findings.judge(check, shown, goal="the published gradient's" if has_goal else "", met=met)


def errors(method: str, dtype: torch.dtype, device: str, shape: tuple[int, int, int]) -> dict[str, tuple[float, float]]:
    """Return the relative errors of value and gradient against float64, of ours and of the published arithmetic."""
    torch.manual_seed(0)
    case = make_case(shape, dtype, device, trained=True)
    embeds, hidden = (leaf.detach().double().requires_grad_() for leaf in (case.inputs_embeds, case.hidden))
    exact = case._replace(inputs_embeds=embeds, hidden=hidden)  # the same numbers, with gradients in float64
    with torch.autocast(device, enabled=False):
        value, gradient = exact.exact(method).item(), exact.gradients(exact.exact, method)
    found = {}
    for name, loss in {"ours": case.ours, "published": case.published}.items():
        if name == "ours" or method in PUBLISHED:
            error = float((case.gradients(loss, method) - gradient).norm() / gradient.norm())
            found[name] = abs(loss(method).item() / value - 1), error
    return found


def train(device: str, folder: str, **options: Any) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Train a tiny Llava with the Trainer, three steps if not told otherwise, and return the weights and the log."""
    torch.manual_seed(0)
    options = {"max_steps": 3, "logging_steps": 1, **options}
    arguments = TrainingArguments(
        output_dir=folder, per_device_train_batch_size=2, report_to=[], save_strategy="no", seed=0,
        remove_unused_columns=False, disable_tqdm=True, use_cpu=device == "cpu", **options,
    )  # fmt: skip
    rows = [FAMILIES[LLAVA].batch((1,), seed) for seed in range(6)]
    trainer = Trainer(
        FAMILIES[LLAVA].build(), arguments, train_dataset=rows,
        data_collator=lambda rows: {key: torch.cat([row[key] for row in rows]) for key in rows[0]},
    )  # fmt: skip
    trainer.train()
    log = [record for record in trainer.state.log_history if "loss" in record]
    return {name: value.cpu() for name, value in trainer.model.state_dict().items()}, log


def check_trainer(findings: Findings, device: str) -> None:
    """Compare trainings without this package, with the flag off and with weight 0; then one with VISTA."""
    setups: dict[str, Callable[[], Any]] = {
        "none": uninstall, "flag off": listen, "weight 0": lambda: install(VistaConfig(weight=0)), "weight 1": install,
    }  # fmt: skip
    trained: dict[str, Any] = {}
    for name, setup in setups.items():
        check = f"Trainer, {name}"
        with findings.attempt(check), tempfile.TemporaryDirectory() as folder:
            uninstall()
            setup()
            weights, log = trained[name] = train(device, folder)
            plain_weights, plain_log = trained["none"]
            same = all(torch.equal(value, plain_weights[key]) for key, value in weights.items())
            losses = [record["loss"] for record in log] == [record["loss"] for record in plain_log]
            if name == "weight 1":
                gap = max(abs(float(r["loss"]) - r["ce_loss"] - r["vista_loss"]) for r in log)
                require(not same and gap < 5e-3, f"weights changed: {not same}; loss - ce_loss - vista_loss: {gap:.1e}")
                findings.add(check, f"loss = ce_loss + vista_loss to {gap:.0e}; other weights than without")
            elif name != "none":
                require(same and losses, f"weights equal to those without the package: {same}; losses: {losses}")
                findings.add(check, "weights and losses bit-identical to a training without the package")
    uninstall()


def to_device(batch: dict[str, Tensor], device: str) -> dict[str, Tensor]:
    """Return the batch on the device."""
    return {key: value.to(device) for key, value in batch.items()}


def make_llava(device: str, **options: Any) -> tuple[torch.nn.Module, dict[str, Tensor]]:
    """Return a tiny Llava in training mode, the same every time, and a batch of several images and a text-only row."""
    torch.manual_seed(0)
    return FAMILIES[LLAVA].build().to(device).train(), to_device(FAMILIES[LLAVA].batch(**options), device)


def largest_error(device: str, change: Callable[[torch.nn.Module], Callable[..., Any]], limit: float) -> str:
    """Compare the gradients of a step of the model as ``change`` returns it with those of the plain model."""
    results = []
    for function in (lambda model: model, change):
        model, batch = make_llava(device)
        handle = attach(model, VistaConfig(weight=2.0))
        function(model)(**batch).loss.backward()
        grads = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        results.append({name: getattr(grad, "full_tensor", grad.clone)() for name, grad in grads.items()})
        require(handle.metrics()["vista_aligned_samples"] == 2, "the term was not computed")
        handle.detach()
    expected, found = results
    scale = max(float(value.abs().max()) for value in expected.values())
    error = max(float((found[name] - value).abs().max()) for name, value in expected.items()) / scale
    require(error <= limit, f"gradients differ by {error:.1e} of the largest")
    return f"gradients to {error:.1e} of the largest"


def check_compile(device: str) -> str:
    """Compile the model; on a CPU with the backend that needs no compiler."""
    backend = "inductor" if device == "cuda" else "eager"
    return f"{backend}: {largest_error(device, lambda model: torch.compile(model, backend=backend), 1e-3)}"


def check_fsdp(device: str) -> str:
    """Shard the model over a mesh of one device."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    def shard(model: Any) -> Any:
        for module in (*model.model.language_model.layers, model):
            fully_shard(module, mesh=init_device_mesh(device, (1,)))
        return model

    backend = "nccl" if device == "cuda" else "gloo"
    with tempfile.NamedTemporaryFile() as store:
        torch.distributed.init_process_group(backend, init_method=f"file://{store.name}", rank=0, world_size=1)
        try:
            return largest_error(device, shard, 1e-5)
        finally:
            torch.distributed.destroy_process_group()


def check_packed_rows(device: str) -> str:
    """Compare two samples in one row, told apart by mask and position_ids, with the same two in rows of their own."""
    model, single = make_llava(device, images=(1, 1))
    keep = single.pop("attention_mask").bool()
    packed = {key: single[key][keep][None] for key in ("input_ids", "labels")}
    packed["position_ids"] = torch.cat([torch.arange(int(row.sum()), device=device) for row in keep])[None]
    blocks = [torch.ones(int(row.sum()), int(row.sum()), dtype=torch.bool, device=device).tril() for row in keep]
    packed["attention_mask"] = torch.block_diag(*blocks).bool()[None, None]  # (1, 1, L, L)
    terms = []
    for inputs in ({**single, "attention_mask": keep.long()}, {**single, **packed}):
        handle = attach(model, add_to_loss=False)
        model(**inputs)
        terms.append(handle.metrics())
        handle.detach()
    require([term["vista_aligned_samples"] for term in terms] == [2, 2], f"{terms}")
    error = abs(terms[1]["vista_loss"] / terms[0]["vista_loss"] - 1)
    require(error < 1e-5, f"term differs by {error:.1e}")
    return f"2 samples each; term differs by {error:.1e}"


def check_scaler(device: str) -> str:
    """Train over a batch of infinite pixels: the scaler skips it, "skip" counts it, "stop" stops at the next log."""
    for policy in ("skip", "stop"):
        model, batch = make_llava(device)
        handle = attach(model, VistaConfig(on_nonfinite=policy))
        scaler = torch.amp.GradScaler(device, init_scale=1024.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        for bad in (False, True, False):
            before = copy.deepcopy(model.state_dict())
            pixels = batch["pixel_values"] * (torch.inf if bad else 1.0)
            optimizer.zero_grad()
            with torch.autocast(device, torch.float16):
                loss = model(**{**batch, "pixel_values": pixels}).loss
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            stays = all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
            require(stays == bad, f"policy {policy}: weights {'stay' if stays else 'change'}, batch bad: {bad}")
        require(scaler.get_scale() == 512, f"the scale is {scaler.get_scale()}, 512 was expected")
        try:
            metrics = handle.metrics()
            require(policy == "skip" and metrics["vista_nonfinite_batches"] == 1, f"policy {policy}: {metrics}")
        except NonFiniteLossError:
            require(policy == "stop", "on_nonfinite=skip stopped the run")
        handle.detach()
    return "that batch changes no weight and halves the scale; the run stops or counts it, as configured"
