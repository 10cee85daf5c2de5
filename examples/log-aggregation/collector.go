package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// consume runs `handle` over batches of log lines as a member of a group, and commits each batch that was handled.
func consume(ctx context.Context, brokers []string, topic, group string, handle func([]*kgo.Record) error) error {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(brokers...),
		kgo.ConsumeTopics(topic),
		kgo.ConsumerGroup(group),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
	)
	if err != nil {
		return err
	}
	defer client.CloseAllowingRebalance()
	for {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err := fetches.Err(); err != nil {
			return err
		}
		if err := handle(fetches.Records()); err != nil {
			return err
		}
		if err := client.CommitRecords(ctx, fetches.Records()...); err != nil {
			return ignoreEnd(ctx, err)
		}
		client.AllowRebalance()
	}
}

// Archive keeps one file for each host, in the order in which the host wrote its lines, each line once.
type Archive struct {
	folder  string
	next    map[string]int64
	lines   int
	Repeats int
}

// NewArchive archives into a folder.
func NewArchive(folder string) *Archive { return &Archive{folder: folder, next: map[string]int64{}} }

// Store appends lines. One that an agent has sent again lies before the end of what is archived, so it is dropped; one that
// lies behind the end would mean that something is missing.
func (a *Archive) Store(records []*kgo.Record) error {
	added := map[string]*strings.Builder{}
	for _, record := range records {
		host := string(record.Key)
		position, err := position(record)
		if err != nil {
			return err
		}
		switch next := a.next[host]; {
		case position < next:
			a.Repeats++
			continue
		case position > next:
			return fmt.Errorf("%s: lines are missing between %d and %d", host, next, position)
		}
		if added[host] == nil {
			added[host] = &strings.Builder{}
		}
		added[host].Write(record.Value)
		added[host].WriteByte('\n')
		a.next[host] += int64(len(record.Value)) + 1
		a.lines++
	}
	for host, lines := range added {
		if err := appendTo(filepath.Join(a.folder, host+".log"), lines.String()); err != nil {
			return err
		}
	}
	return nil
}

func position(record *kgo.Record) (int64, error) {
	for _, header := range record.Headers {
		if header.Key == "position" {
			return strconv.ParseInt(string(header.Value), 10, 64)
		}
	}
	return 0, errors.New("a line without a position")
}

func appendTo(path, text string) error {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.WriteString(text); err != nil {
		return err
	}
	return file.Sync()
}

// Alarm is another reader of the same topic: it cares for errors only, and about them at once.
type Alarm struct {
	Errors map[string]bool
	Latest time.Duration
}

// Look notes the errors, each once, and how old the youngest line was when it was seen.
func (a *Alarm) Look(records []*kgo.Record) error {
	for _, record := range records {
		a.Latest = time.Since(record.Timestamp)
		if strings.Contains(string(record.Value), " ERROR ") {
			a.Errors[string(record.Key)+" "+string(record.Value)] = true
		}
	}
	return nil
}
