"""Claims about averaged weights and resuming, with NeMo's own experiment manager."""

import pytest
import torch
from lightning.pytorch import Trainer
from nemo.utils.exp_manager import exp_manager
from omegaconf import OmegaConf

from nemo_audio_restore._nemo import SafeCheckpointIO, UnsafeFileError


def _fit(toy_class, config, folder, *, max_steps, ema=True):
    trainer = Trainer(
        max_steps=max_steps,
        accelerator='cpu',
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[SafeCheckpointIO()],
    )
    settings = {
        'exp_dir': str(folder),
        'name': 'toy',
        'create_tensorboard_logger': False,
        'create_checkpoint_callback': True,
        'checkpoint_callback_params': {'monitor': 'step', 'mode': 'max', 'save_top_k': 1, 'always_save_nemo': False},
        'resume_if_exists': True,
        'resume_ignore_no_checkpoint': True,
        'ema': {'enable': ema, 'decay': 0.5},
    }
    exp_manager(trainer, OmegaConf.create(settings))
    config.train_ds = {'manifest': 'x.jsonl'}
    torch.manual_seed(1)
    model = toy_class(config, trainer)
    trainer.fit(model)
    return model, trainer


def test_saved_model_holds_the_averaged_weights_and_training_goes_on_with_its_own(toy_class, toy_config, tmp_path):
    model, trainer = _fit(toy_class, toy_config, tmp_path, max_steps=5)
    raw = model.line.layer.weight.detach().clone()
    average = trainer.optimizers[0].ema_params[0].detach().clone()
    assert not torch.allclose(raw, average)
    model.save_to(tmp_path / 'toy.nemo')
    assert torch.equal(toy_class.restore_from(tmp_path / 'toy.nemo').line.layer.weight, average)
    assert torch.equal(model.line.layer.weight, raw)
    assert torch.equal(trainer.optimizers[0].ema_params[0], average)


def test_file_that_nemo_writes_at_the_end_of_training_holds_the_average_too(toy_class, toy_config, tmp_path):
    model, trainer = _fit(toy_class, toy_config, tmp_path, max_steps=5)
    (path,) = tmp_path.rglob('*.nemo')
    assert torch.equal(toy_class.restore_from(path).line.layer.weight, trainer.optimizers[0].ema_params[0])


def test_training_with_averaging_resumes_where_it_stopped(toy_class, toy_config, tmp_path):
    first, before = _fit(toy_class, toy_config, tmp_path / 'two', max_steps=4)
    second, after = _fit(toy_class, toy_config, tmp_path / 'two', max_steps=8)
    whole, once = _fit(toy_class, toy_config, tmp_path / 'one', max_steps=8)
    assert after.global_step == once.global_step == 8
    assert torch.allclose(second.line.layer.weight, whole.line.layer.weight, atol=1e-6)
    assert torch.allclose(after.optimizers[0].ema_params[0], once.optimizers[0].ema_params[0], atol=1e-6)
    assert not torch.equal(first.line.layer.weight, second.line.layer.weight)


def test_without_averaging_the_raw_weights_are_saved(toy_class, toy_config, tmp_path):
    model, _ = _fit(toy_class, toy_config, tmp_path, max_steps=3, ema=False)
    model.save_to(tmp_path / 'toy.nemo')
    restored = toy_class.restore_from(tmp_path / 'toy.nemo')
    assert torch.equal(restored.line.layer.weight, model.line.layer.weight)


def test_training_checkpoint_loads_for_inference_without_the_data_of_its_maker(toy_class, toy_config, tmp_path):
    model, trainer = _fit(toy_class, toy_config, tmp_path, max_steps=3)
    (path,) = tmp_path.rglob('*-last-EMA.ckpt')
    loaded = toy_class.load_from_checkpoint(path)
    assert torch.equal(loaded.line.layer.weight, trainer.optimizers[0].ema_params[0])
    assert not loaded.training and loaded.cfg.train_ds is None


def test_resuming_from_a_checkpoint_with_a_pickle_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / 'ran'), 'w'))

    torch.save({'state_dict': {}, 'x': Evil()}, tmp_path / 'evil.ckpt')
    with pytest.raises(UnsafeFileError):
        SafeCheckpointIO().load_checkpoint(tmp_path / 'evil.ckpt')
    assert not (tmp_path / 'ran').exists()
