import sys; sys.path.insert(0,'/work/main/tests/evaluate')
import pytest
from test_harness import results
def test_dbg(results, model, items, tmp_path, monkeypatch):
    import datasets
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    for ours in results:
      for folder,name in zip(items, ours.tasks):
        monkeypatch.chdir(folder)
        p=simple_evaluate(model="hf",model_args=f"pretrained={model},dtype=float32",tasks=[name],num_fewshot=ours.shots,limit=10,batch_size=4,device="cpu",task_manager=TaskManager(include_path=".",include_defaults=False),fewshot_random_seed=1234)
        S=sorted(p["samples"][name],key=lambda s:s["doc_id"])
        for r,s in zip([r for r in ours.items if r["task"]==name],S):
            th=[x[0] for x in s["filtered_resps"]]
            print(ours.shots,name,r["id"],r["answer"],r["acc"],s["acc"],max(abs(a-b) for a,b in zip(th,r["loglikelihoods"])),[round(x,3) for x in r["loglikelihoods"]],[round(x,3) for x in th], r["choices"]==s["doc"]["choices"])
