module odradek/interop/ledger

go 1.25
