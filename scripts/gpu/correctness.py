"""Part "right": values, gradients and bit-identity on the device, and the ways of training that only a GPU really has."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from cases import METHODS, PUBLISHED, gradient_error, make_case, value_errors
from findings import NOT_RUN, Findings, NotRun, Options, require
from merging_host import Merging, batch_for, config
from native_models import FAMILIES, LLAVA
from torch import Tensor
from transformers import Trainer, TrainingArguments

from llava_vista import LayoutError, NonFiniteLossError, VistaConfig, attach, install, uninstall
from llava_vista.hooks import listen
from llava_vista.testing import check_adapter

#: Largest relative errors of value and gradient, by dtype of the inputs: the gradient is rounded to it once.
TOLERANCES = {torch.float32: (1e-5, 1e-5), torch.bfloat16: (1e-5, 4e-3), torch.float16: (1e-5, 5e-4)}
HOSTS = (LLAVA, "Qwen2_5_VLForConditionalGeneration")


def run(findings: Findings, options: Options) -> None:
    """Run every check. Deterministic algorithms make two runs of the host itself comparable bit for bit."""
    device = options.device
    torch.backends.cuda.matmul.allow_tf32 = False
    check_objective(findings, options)
    with deterministic():
        check_trainer(findings, device)
        for name in (*HOSTS, "merging host"):
            with findings.attempt(f"conformance kit, {name}"):
                check_conformance(findings, name, device)
    for check, function in {
        "flash attention against sdpa": check_flash_attention,
        "several samples in one row": check_packed_rows,
        "torch.compile": check_compile,
        "fp16, GradScaler, a batch that is not finite": check_scaler,
        "FSDP2 on one device": check_fsdp,
    }.items():
        with findings.attempt(check):
            findings.add(check, function(device))
    findings.add("device_map over two devices", "needs two devices", status=NOT_RUN)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Use deterministic algorithms only."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def to_device(batch: dict[str, Any], device: str) -> dict[str, Any]:
    """Return the batch on the device."""
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}


def make_llava(device: str, **options: Any) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Return a tiny Llava in training mode, the same every time, and a batch of several images and a text-only row."""
    torch.manual_seed(0)
    return FAMILIES[LLAVA].build().to(device).train(), to_device(FAMILIES[LLAVA].batch(**options), device)


def check_objective(findings: Findings, options: Options) -> None:
    """Compare every estimator with float64 in every precision, and with the published arithmetic where there is one."""
    shape = (2, 64, 32) if options.reduced else (4, 512, 1024)
    scopes: dict[str, Callable[[], Any]] = {
        "": contextlib.nullcontext,
        ", autocast": lambda: torch.autocast(options.device, torch.bfloat16),
        ", TF32": allow_tf32,
    }
    for method in METHODS:
        for dtype in TOLERANCES:
            for words, scope in scopes.items():
                name = f"{method}, {str(dtype).removeprefix('torch.')}{words}"
                if dtype == torch.float32 or not words:
                    with findings.attempt(name):
                        compare_precision(findings, name, method, dtype, options.device, shape, scope)
    for method in PUBLISHED:
        check = f"value, {method}, bf16 inputs: mean relative error against float64"
        with findings.attempt(check):
            errors = value_errors(method, options.device, 3 if options.reduced else 100)
            words = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
            goal = "the published arithmetic's"
            findings.judge(check, words, goal=goal, met=errors["ours"] <= errors["published"], errors=errors)


def compare_precision(
    findings: Findings,
    name: str,
    method: str,
    dtype: torch.dtype,
    device: str,
    shape: tuple[int, int, int],
    scope: Callable[[], Any],
) -> None:
    """Add the errors of value and gradient."""
    torch.manual_seed(0)
    case = make_case(shape, dtype, device, trained=True)
    wide = case._replace(**{  # the same numbers as leaves of their own, so that gradients are float64, too
        field: getattr(case, field).detach().double().requires_grad_() for field in ("inputs_embeds", "hidden")
    })  # fmt: skip
    exact, exact_value = wide.gradients(lambda: wide.exact(method)), wide.exact(method).item()
    with scope():
        value = abs(case.ours(method).item() - exact_value) / abs(exact_value)
        error = gradient_error(case.gradients(lambda: case.ours(method)), exact)
        words = f"value {value:.1e}, gradient {error:.1e}"
        limits = TOLERANCES[dtype]
        require(value <= limits[0] and error <= limits[1], f"{words}; at most {limits[0]:g} and {limits[1]:g} allowed")
        if method not in PUBLISHED:
            findings.add(f"{name}: relative errors against float64", words)
            return
        theirs = gradient_error(case.gradients(lambda: case.published(method)), exact)
    findings.judge(
        f"{name}: relative errors against float64",
        f"{words}; published gradient {theirs:.1e}",
        goal="published gradient's" if dtype == torch.bfloat16 else "",
        # Both round the gradient once: equal but for the last digit of the norm.
        met=dtype != torch.bfloat16 or error <= theirs * 1.001,
    )


@contextlib.contextmanager
def allow_tf32() -> Iterator[None]:
    """Allow TF32 in matrix products, as LLaVA's scripts do."""
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def train(device: str, folder: str) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Train three steps with the Trainer, and return the weights and the log."""
    torch.manual_seed(0)
    arguments = TrainingArguments(
        output_dir=folder, max_steps=3, logging_steps=1, per_device_train_batch_size=2, report_to=[], seed=0,
        save_strategy="no", remove_unused_columns=False, disable_tqdm=True, use_cpu=device == "cpu",
    )  # fmt: skip
    rows = [FAMILIES[LLAVA].batch((1,), seed) for seed in range(6)]
    trainer = Trainer(FAMILIES[LLAVA].build(), arguments, train_dataset=rows, data_collator=collate)
    trainer.train()
    log = [record for record in trainer.state.log_history if "loss" in record]
    return {name: value.detach().cpu() for name, value in trainer.model.state_dict().items()}, log


def collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return rows of one length as one batch."""
    return {key: torch.cat([row[key] for row in rows]) for key in rows[0]}


def check_trainer(findings: Findings, device: str) -> None:
    """Compare trainings without this package, with the flag off and with weight 0; then one with VISTA."""
    setups: dict[str, Callable[[], None]] = {
        "none": uninstall, "flag off": listen, "weight 0": partial(install, VistaConfig(weight=0)), "weight 1": install,
    }  # fmt: skip
    trained: dict[str, Any] = {}
    for name, setup in setups.items():
        check = f"Trainer, {name}"
        with findings.attempt(check), tempfile.TemporaryDirectory() as folder:
            uninstall()
            setup()
            weights, log = trained[name] = train(device, folder)
            same = all(torch.equal(value, trained["none"][0][key]) for key, value in weights.items())
            losses = [record["loss"] for record in log] == [record["loss"] for record in trained["none"][1]]
            if name == "weight 1":
                gap = max(abs(float(r["loss"]) - r["ce_loss"] - r["vista_loss"]) for r in log)
                require(not same and gap < 5e-3, f"weights changed: {not same}; loss - ce_loss - vista_loss: {gap:.1e}")
                findings.add(check, f"loss = ce_loss + vista_loss to {gap:.0e}, weights differ from the baseline's")
            elif name != "none":
                require(same and losses, f"weights bit-identical: {same}, losses: {losses}")
                findings.add(check, "weights and losses bit-identical to a training without the package")
    uninstall()


def check_conformance(findings: Findings, name: str, device: str) -> None:
    """Run the conformance kit, which includes gradient checkpointing and PEFT."""
    if name == "merging host":
        build, batch = lambda: Merging(config()), lambda: batch_for(Merging)
    else:
        build, batch = FAMILIES[name]
    outcomes = check_adapter(lambda: build().to(device), lambda: to_device(batch(), device))
    skipped = [str(outcome) for outcome in outcomes if outcome.result == "skipped"]
    words = f"{len(outcomes) - len(skipped)} of {len(outcomes)} checks pass"
    findings.add(f"conformance kit, {name}", "; ".join([words, *skipped]))


def check_flash_attention(device: str) -> str:
    """Compare the term and its gradient under flash attention with those under sdpa, in bf16."""
    if device == "cpu" or importlib.util.find_spec("flash_attn") is None:
        raise NotRun("flash_attn is not installed" if device == "cuda" else "needs a GPU")
    found = {}
    for kind in ("sdpa", "flash_attention_2"):
        model, batch = make_llava(device)
        model = model.bfloat16()
        model.set_attn_implementation(kind)
        handle = attach(model)
        model(**{**batch, "pixel_values": batch["pixel_values"].bfloat16()}).loss.backward()
        found[kind] = handle.metrics()["vista_loss"]
        handle.detach()
    error = abs(found["flash_attention_2"] / found["sdpa"] - 1)
    require(error < 2e-2, f"term {found}")
    return f"term differs by {error:.1e}"


def check_packed_rows(device: str) -> str:
    """Compare two samples in one row, as position_ids tell them apart, with the same two in rows of their own."""
    model, single = make_llava(device, images=(1, 1))
    keep = single["attention_mask"].bool()
    packed = {key: single[key][keep][None] for key in ("input_ids", "labels", "attention_mask")}
    positions = torch.cat([torch.arange(int(row.sum()), device=device) for row in keep])[None]
    terms = []
    for inputs in (single, {**packed, "position_ids": positions, "pixel_values": single["pixel_values"]}):
        handle = attach(model, add_to_loss=False)
        try:
            model(**inputs)
            terms.append(float(handle.loss()))
        except LayoutError as error:
            require("packed into one row" in str(error), str(error))
            return f"refused by name: {str(error).split(':')[0]}"
        finally:
            handle.detach()
    require(abs(terms[1] / terms[0] - 1) < 1e-2, f"term {terms[1]} packed, {terms[0]} in rows of their own")
    return f"term differs by {abs(terms[1] / terms[0] - 1):.1e}"


def check_compile(device: str) -> str:
    """Compare loss and gradients of a compiled model with those of the model as it is."""
    backend = "inductor" if device == "cuda" else "eager"
    results = []
    for compiled in (False, True):
        model, batch = make_llava(device)
        handle = attach(model)
        loss = (torch.compile(model, backend=backend) if compiled else model)(**batch).loss
        loss.backward()
        results.append((loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
        require(handle.metrics()["vista_aligned_samples"] == 2, "the term was not computed")
        handle.detach()
    (plain, expected), (loss, found) = results
    scale = max(float(value.abs().max()) for value in expected.values())
    error = max(float((found[name] - value).abs().max()) for name, value in expected.items()) / scale
    require(abs(loss - plain) < 1e-3 * abs(plain) and error < 1e-3, f"loss {loss}, not {plain}; gradients {error:.1e}")
    return f"{backend}: gradients to {error:.1e} of the largest"


def check_scaler(device: str) -> str:
    """Train over a batch of infinite pixels: the scaler skips it, "skip" counts it, "stop" stops at the next log."""
    for policy in ("skip", "stop"):
        model, batch = make_llava(device)
        handle = attach(model, VistaConfig(on_nonfinite=policy))
        scaler, optimizer = (
            torch.amp.GradScaler(device, init_scale=1024.0),
            torch.optim.SGD(model.parameters(), lr=1e-2),
        )
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


def check_fsdp(device: str) -> str:
    """Compare gradients of a model sharded over a mesh of one device with the plain model's."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    results = []
    with tempfile.NamedTemporaryFile() as store:
        torch.distributed.init_process_group(
            "nccl" if device == "cuda" else "gloo", init_method=f"file://{store.name}", rank=0, world_size=1
        )
        try:
            for sharded in (False, True):
                model, batch = make_llava(device)
                handle = attach(model, VistaConfig(weight=2.0))
                if sharded:
                    mesh = init_device_mesh(device, (1,))
                    for module in (*model.model.language_model.layers, model):
                        fully_shard(module, mesh=mesh)
                model(**batch).loss.backward()
                grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
                results.append({name: getattr(g, "full_tensor", g.clone)() for name, g in grads.items()})
                require(handle.metrics()["vista_aligned_samples"] == 2, "the term was not computed")
        finally:
            torch.distributed.destroy_process_group()
    expected, found = results
    scale = max(float(value.abs().max()) for value in expected.values())
    error = max(float((found[name] - value).abs().max()) for name, value in expected.items()) / scale
    require(error < 1e-5, f"gradients off by {error:.1e} of the largest")
    return f"gradients to {error:.1e} of the largest"
