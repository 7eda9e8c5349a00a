# A pool of workers that are programs of their own (multiprocessing, "spawn"): they share semaphores by name (sem_open(3)).
import multiprocessing


def work(tasks, answers):
    while True:
        answers.put(tasks.get() ** 2)


if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    tasks, answers = context.Queue(), context.Queue()
    for _ in range(3):
        context.Process(target=work, args=(tasks, answers), daemon=True).start()
    while True:
        for number in range(50):
            tasks.put(number)
        found = sorted(answers.get(timeout=30) for _ in range(50))
        print("right" if found == [number**2 for number in range(50)] else "wrong", flush=True)
