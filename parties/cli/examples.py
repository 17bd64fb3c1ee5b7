"""One example for each command of `cipherward-party`, which its help shows. A test parses them all and runs most."""

from __future__ import annotations

EXAMPLES = {
    "audit": "cipherward-party audit my-images/ --image-size 64 --block 8",
    "keygen": "cipherward-party keygen hospital/",
    "identity": "cipherward-party identity identity.txt",
    "share-key": "cipherward-party share-key hospital/secret.key for-them.key --recipient age1…",
    "rotate": "cipherward-party rotate hospital/",
    "check": "cipherward-party check my-images/",
    "seal": "cipherward-party seal hospital/ --images my-images/ --image-size 64 --block 8",
    "schemes": "cipherward-party schemes --image-size 64",
    "unseal": "cipherward-party unseal hospital/sealed/test --key hospital/secret.key --out opened/",
    "inspect": "cipherward-party inspect hospital/sealed/train",
    "verify": "cipherward-party verify hospital/sealed/train --key hospital/secret.key",
    "enrol": "cipherward-party enrol hospital/",
    "accept": "cipherward-party accept plan.yaml hospital/",
    "declare": "cipherward-party declare hospital/",
    "agree": "cipherward-party agree study.json hospital/",
    "patients": "cipherward-party patients hospital/ patients.csv",
    "privacy": "cipherward-party privacy hospital/",
    "approve": "cipherward-party approve hospital.kit hospital/",
    "join": "cipherward-party join hospital.kit hospital/",
    "leave": "cipherward-party leave hospital/",
    "log": "cipherward-party log verify hospital/",
    "baseline": "cipherward-party baseline hospital/ --plan plan.yaml --out baseline.json",
    "classify": "cipherward-party classify hospital/ scan.png --model cloud/model.safetensors",
    "score": "cipherward-party score hospital/ guesses/",
    "report": "cipherward-party report hospital/ hospital/scores.json --guesses guesses/",
    "agent status": "cipherward-party agent status hospital/",
    "agent approvals": "cipherward-party agent approvals hospital/",
    "agent withdraw": "cipherward-party agent withdraw 3f2a9c hospital/",
}
