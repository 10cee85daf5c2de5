// franz-go against a cluster: franz BOOTSTRAP TOPIC GROUP COUNT.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"odradek/interop/ledger"
)

func described(admin *kadm.Client, topic string) error {
	return ledger.WaitFor("three partitions, each with three replicas in sync", 30*time.Second, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		found, err := admin.ListTopics(ctx, topic)
		if err != nil || found[topic].Err != nil || len(found[topic].Partitions) != ledger.Partitions {
			return false
		}
		for _, p := range found[topic].Partitions {
			if p.Err != nil || len(p.Replicas) != ledger.Replication || len(p.ISR) != ledger.Replication {
				return false
			}
		}
		return true
	})
}

func produce(brokers []string, topic string, count int) (map[int]ledger.Position, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	var mutex sync.Mutex
	var failed error
	acked := map[int]ledger.Position{}
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	for i := range count {
		r := &kgo.Record{Topic: topic, Key: []byte(ledger.Key(i)), Value: []byte(ledger.Value(i))}
		client.Produce(ctx, r, func(r *kgo.Record, err error) {
			mutex.Lock()
			defer mutex.Unlock()
			failed = errors.Join(failed, err)
			acked[i] = ledger.Position{Partition: r.Partition, Offset: r.Offset}
		})
	}
	if err := client.Flush(ctx); err != nil {
		return nil, err
	}
	mutex.Lock()
	defer mutex.Unlock()
	return acked, failed
}

// member is one consumer of the group; it commits what it received at the end.
type member struct {
	name     string
	client   *kgo.Client
	mutex    sync.Mutex
	assigned map[int32]bool
}

func newMember(brokers []string, topic, group, name string) (*member, error) {
	m := &member{name: name, assigned: map[int32]bool{}}
	note := func(owned bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
			m.mutex.Lock()
			defer m.mutex.Unlock()
			for _, p := range partitions[topic] {
				if owned {
					m.assigned[p] = true
				} else {
					delete(m.assigned, p)
				}
			}
		}
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic),
		kgo.DisableAutoCommit(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.OnPartitionsAssigned(note(true)), kgo.OnPartitionsRevoked(note(false)), kgo.OnPartitionsLost(note(false)))
	m.client = client
	return m, err
}

func (m *member) size() int {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return len(m.assigned)
}

func (m *member) run(ctx context.Context, l *ledger.Ledger) error {
	for {
		fetches := m.client.PollFetches(ctx)
		if ctx.Err() != nil {
			break
		}
		if errs := fetches.Errors(); len(errs) > 0 {
			return errs[0].Err
		}
		fetches.EachRecord(func(r *kgo.Record) { l.Add(m.name, r.Partition, r.Offset, r.Key, r.Value) })
	}
	limit, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err := m.client.CommitUncommittedOffsets(limit)
	m.client.Close()
	return err
}

// groupOfTwo starts both members and gives back a function that ends them.
func groupOfTwo(brokers []string, topic, group string, l *ledger.Ledger) (func() error, error) {
	ctx, cancel := context.WithCancel(context.Background())
	var members []*member
	ended := make(chan error, 2)
	for i := range 2 {
		m, err := newMember(brokers, topic, group, fmt.Sprintf("member-%d", i))
		if err != nil {
			cancel()
			return nil, err
		}
		members = append(members, m)
		go func() { ended <- m.run(ctx, l) }()
	}
	end := func() error {
		cancel()
		return errors.Join(<-ended, <-ended)
	}
	return end, ledger.WaitFor("both members have partitions", 60*time.Second, func() bool {
		a, b := members[0].size(), members[1].size()
		return a > 0 && b > 0 && a+b == ledger.Partitions
	})
}

func committed(admin *kadm.Client, topic, group string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	offsets, err := admin.FetchOffsets(ctx, group)
	if err != nil {
		return err
	}
	ends, err := admin.ListEndOffsets(ctx, topic)
	if err != nil {
		return err
	}
	for p := range int32(ledger.Partitions) {
		at, there := offsets.Lookup(topic, p)
		end, found := ends.Lookup(topic, p)
		if !there || !found || end.Err != nil || at.At != end.Offset {
			return fmt.Errorf("partition %d: committed %d, end %d", p, at.At, end.Offset)
		}
	}
	return nil
}

func version(path string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if d.Path == path {
				return strings.TrimPrefix(d.Version, "v")
			}
		}
	}
	return "?"
}

func main() {
	brokers, topic, group := strings.Split(os.Args[1], ","), os.Args[2], os.Args[3]
	count, _ := strconv.Atoi(os.Args[4])
	report := ledger.NewReport("franz-go", version("github.com/twmb/franz-go"))
	ctx, cancel := context.WithTimeout(context.Background(), 170*time.Second)
	defer cancel()
	var admin *kadm.Client
	var end func() error
	var acked map[int]ledger.Position
	l := ledger.New()
	report.Step("create", func() error {
		client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
		if err != nil {
			return err
		}
		admin = kadm.NewClient(client)
		answer, err := admin.CreateTopic(ctx, ledger.Partitions, ledger.Replication, nil, topic)
		return errors.Join(err, answer.Err)
	})
	report.Step("list", func() error {
		return ledger.WaitFor("topic in the list", 20*time.Second, func() bool {
			topics, err := admin.ListTopics(ctx)
			return err == nil && topics.Has(topic)
		})
	})
	report.Step("describe", func() error { return described(admin, topic) })
	report.Step("consume", func() (err error) { end, err = groupOfTwo(brokers, topic, group, l); return err })
	report.Step("produce", func() (err error) { acked, err = produce(brokers, topic, count); return err })
	report.Step("consume", func() error {
		if err := ledger.WaitFor("all records", 90*time.Second, func() bool { return l.Count() >= count }); err != nil {
			return err
		}
		if err := end(); err != nil {
			return err
		}
		if err := l.Verify(count, acked); err != nil {
			return err
		}
		return committed(admin, topic, group)
	})
	report.End()
}
