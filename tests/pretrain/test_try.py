import time
def test_it(material, tmp_path):
    t=time.time()
    r = material.training("baseline", tmp_path/"a").finish()
    print(r.log, r.losses, time.time()-t)
    t=time.time()
    r = material.training("composed", tmp_path/"b").finish()
    print(r.log, r.losses, time.time()-t)
    assert 0
