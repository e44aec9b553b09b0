from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = next(
    line.split('"')[1] for line in (here / "videobench/__init__.py").read_text().splitlines() if "__version__ =" in line
)
SERVE = ["fastapi>=0.115", "uvicorn>=0.30", "python-multipart>=0.0.20", "prometheus-client>=0.20"]
TORCHCODEC = ["torchcodec>=0.17"]
EXPORT = ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.3"]

setup(
    name="videobench",
    version=version,
    description="Train and test video-recognition networks from one YAML file",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["videobench", "videobench.*"]),
    package_data={
        "videobench.models": ["zoo.yaml", "networks/*.yaml"],
        "videobench.datasets": ["classes/*.txt"],
        "videobench.reporting": ["page/*", "page/echarts/*"],
        "videobench.serving": ["page/*"],
    },
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "fvcore>=0.1.5.post20221221",
        "yacs>=0.1.8",
        "av>=17.1",
        "simplejson>=3.19",
        "timm>=1.0.22",
        "safetensors>=0.4",
        "einops>=0.8",
        "tensorboard>=2.18",
        "submitit>=1.5",
        "numpy>=2.0",
        "matplotlib>=3.9",
        "pillow>=10.1",
        "tqdm>=4.66",
        "PyYAML>=6",
    ],
    extras_require={
        "camera": ["opencv-python-headless>=4.8"],
        "export": EXPORT,
        "serve": SERVE,
        "torchcodec": TORCHCODEC,
        "test": [
            *EXPORT,
            *SERVE,
            *TORCHCODEC,
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "ruff>=0.11",
            "playwright>=1.50",
        ],
    },
)
