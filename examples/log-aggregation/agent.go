package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// unsavedMax is how many lines an agent sends at most before it writes its position down: as many may come twice.
const unsavedMax = 1000

// Agent runs on each host: it follows a log file and sends every line. Beside the file it keeps how far it has come.
type Agent struct {
	client *kgo.Client
	topic  string
	host   string
	path   string
}

// NewAgent connects the agent of a host. Lines compress well, and some milliseconds more make batches worth compressing.
func NewAgent(brokers []string, topic, host, path string) (*Agent, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ProducerBatchCompression(kgo.ZstdCompression()),
		kgo.ProducerLinger(20*time.Millisecond))
	return &Agent{client: client, topic: topic, host: host, path: path}, err
}

// Follow sends what is in the file and what is added to it, until ctx ends. The position is written down only when everything
// before it is acknowledged: an agent that is killed sends the last lines again when it comes back, and skips none.
func (a *Agent) Follow(ctx context.Context) error {
	defer a.client.Close()
	file, err := os.Open(a.path)
	if err != nil {
		return err
	}
	defer file.Close()
	position := a.position()
	if _, err := file.Seek(position, io.SeekStart); err != nil {
		return err
	}
	lines, unsaved := bufio.NewReader(file), 0
	var partial string
	for ctx.Err() == nil {
		line, err := lines.ReadString('\n')
		line = partial + line
		switch {
		case err == nil:
			a.send(ctx, line, position)
			position, partial, unsaved = position+int64(len(line)), "", unsaved+1
			if unsaved < unsavedMax {
				continue
			}
		case errors.Is(err, io.EOF):
			// The program may be in the middle of writing a line.
			partial = line
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
		default:
			return err
		}
		if unsaved == 0 {
			continue
		}
		if err := a.reached(ctx, position); err != nil {
			return ignoreEnd(ctx, err)
		}
		unsaved = 0
	}
	return nil
}

func (a *Agent) send(ctx context.Context, line string, position int64) {
	a.client.Produce(ctx, &kgo.Record{
		Topic: a.topic,
		// A host's lines have one key: one partition, one order.
		Key:   []byte(a.host),
		Value: []byte(strings.TrimSuffix(line, "\n")),
		// With its position in the file, a line that came twice can be told.
		Headers: []kgo.RecordHeader{{Key: "position", Value: []byte(strconv.FormatInt(position, 10))}},
	}, nil)
}

// reached waits for the acknowledgement of all lines so far and writes the position down, in one step.
func (a *Agent) reached(ctx context.Context, position int64) error {
	if err := a.client.Flush(ctx); err != nil {
		return err
	}
	next := a.positionFile() + ".new"
	if err := os.WriteFile(next, []byte(strconv.FormatInt(position, 10)), 0o644); err != nil {
		return err
	}
	return os.Rename(next, a.positionFile())
}

func (a *Agent) position() int64 {
	text, err := os.ReadFile(a.positionFile())
	if err != nil {
		return 0
	}
	position, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil {
		return 0
	}
	return position
}

func (a *Agent) positionFile() string {
	return filepath.Join(filepath.Dir(a.path), "."+filepath.Base(a.path)+".position")
}

// ignoreEnd turns the error of an operation that was cut short by the end into none.
func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
