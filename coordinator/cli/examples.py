"""One example for each command of `cipherward-coordinator`, which its help shows. A test parses them all."""

from __future__ import annotations

EXAMPLES = {
    "simulate": "cipherward-coordinator simulate configs/demo.yaml --set rounds=3",
    "manifest": "cipherward-coordinator manifest plan.yaml north.json south.json --out study.json",
    "train": "cipherward-coordinator train plan.yaml north/sealed south/sealed --out cloud/",
    "classify": "cipherward-coordinator classify query/ --model cloud/model.safetensors",
    "attack": "cipherward-coordinator attack hospital/sealed --out guesses/ --budget 60s",
    "report": "cipherward-coordinator report scores.json --guesses guesses/ --sealed hospital/sealed",
    "export": "cipherward-coordinator export runs/demo --tensorboard events/",
    "weights": "cipherward-coordinator weights vit_tiny_patch16_224 vit_tiny.safetensors",
    "env": 'eval "$(cipherward-coordinator env)"',
    "provision": "cipherward-coordinator provision FEDERATION.yaml deployment/",
    "enrol": "cipherward-coordinator enrol deployment/ north.pub",
    "carry": "cipherward-coordinator carry deployment/ north-approval.json south-approval.json",
    "serve": "cipherward-coordinator serve deployment/",
    "run": "cipherward-coordinator run deployment/",
    "status": "cipherward-coordinator status deployment/ --watch",
    "stop": "cipherward-coordinator stop deployment/",
    "revoke": "cipherward-coordinator revoke deployment/ north",
    "renew": "cipherward-coordinator renew deployment/ --ca-key usb-stick/ca.key",
}
