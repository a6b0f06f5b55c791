#!/usr/bin/env bash
# Make one of the environments that the demo and the tests use, under .venvs/, and print its path.
#
#   scripts/make_env.sh llava     LLaVA-1.5 as published (llava-torch, transformers 4.37.2)
#   scripts/make_env.sh older     transformers 4.44, whose own Llava classes expand images inside their forward
#   scripts/make_env.sh latest    the newest transformers, TRL, PEFT
#   scripts/make_env.sh lmms-eval llava's packages, and over them lmms-eval with what its LLaVA wrapper imports
#
# PYTHON chooses the interpreter (default python3). An environment made by the same version of this script is reused.
set -euo pipefail
name=${1:?usage: scripts/make_env.sh llava|older|latest|lmms-eval}
cd "$(dirname "$0")/.."
[ "$name" != lmms-eval ] || llava=$(scripts/make_env.sh llava)
env=.venvs/$name
stamp=$env/.made-by
want=$(cksum < scripts/make_env.sh; cksum < pyproject.toml; cksum < llava_vista/hooks/llava_vista.pth; cksum < llava_vista/hooks/llava_vista_startup.py)

if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ]; then
  {
    rm -rf "$env"
    "${PYTHON:-python3}" -m venv "$env"
    pip="$env/bin/python -m pip install --quiet --disable-pip-version-check"
    common="pytest pytest-xdist hypothesis matplotlib scipy jinja2 packaging"
    echo "Installing environment $name into $env (a few minutes)"
    case $name in
      llava)
        # shellcheck disable=SC2086
        $pip setuptools wheel torch==2.13.0 transformers==4.37.2 accelerate==0.34.2 peft==0.10.0 sentencepiece einops==0.6.1 \
          "numpy<2" pillow requests protobuf ruff==0.17.6 mypy==2.4.1 import-linter $common
        # LLaVA's trainer imports deepspeed when it saves; built here, so that it finds the torch just installed
        $pip --no-build-isolation deepspeed==0.15.4 "numpy<2"
        # LLaVA's own requirements pin an old torch and serving packages that training does not need
        $pip --no-deps llava-torch==1.2.2.post1
        ;;
      older)
        # shellcheck disable=SC2086
        $pip torch==2.13.0 transformers==4.44.2 accelerate==0.34.2 peft==0.12.0 einops "numpy<2" pillow $common
        ;;
      latest)
        # shellcheck disable=SC2086
        $pip torch==2.13.0 transformers trl peft accelerate sentencepiece einops pillow protobuf import-linter \
          tensorboard statsmodels $common
        # timm imports torchvision, which does not go with a CPU build of torch: the test of --tower puts a stand-in in
        # its place. What else timm needs (safetensors, huggingface_hub, pyyaml) is here.
        $pip --no-deps timm
        ;;
      lmms-eval)
        # The packages of llava are found behind this environment's own: nothing is installed twice, llava stays as it is
        site=$("$env/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
        echo "$PWD/$llava/${site#*/"$env"/}" > "$site/llava.pth"
        # Its requirements would bring another transformers, torchvision, opencv and 40 more that a task of LLaVA's does not
        # import. 0.7.3 is the newest; pandas, pyarrow and datasets go with LLaVA's numpy.
        $pip --no-deps lmms-eval==0.7.3
        # It imports filelock._api, which filelock 4.3 no longer has
        $pip "filelock<4.3" "numpy<2" datasets==2.19.2 "pandas<2.3" "pyarrow<18" evaluate jsonlines pytablewriter sacrebleu scikit-learn openai \
          httpx nltk tqdm-multiprocess zstandard sympy latex2sympy2==1.9.1 loguru tenacity zss python-dotenv openpyxl
        ;;
      *)
        echo "unknown environment: $name (llava, older, latest or lmms-eval)"
        exit 2
        ;;
    esac
    $pip --no-deps --editable .
    printf '%s' "$want" > "$stamp"
  } >&2
fi
echo "$env"
