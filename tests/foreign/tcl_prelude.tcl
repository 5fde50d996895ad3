# What SQLite's test scripts use of its tester.tcl, for an interpreter that has no testfixture.
# Commands that only testfixture has are not here; a check that needs one is "unsupported".

array set ::G {perm:name "" isquick 0}
array set ::sqlite_options {default_autovacuum 0 wal 1 casesensitivelike 0 threadsafe 1 threadsafe2 0
    long_double 1 memorydb 1 utf16 0 configslower 1.0 mergesort 1 x 1}
array set ::cmdlinearg {soak 0 verbose 0}
set ::AUTOVACUUM 0
set ::TEMP_STORE 1
set ::SQLITE_MAX_LENGTH 1000000000
set ::SQLITE_MAX_EXPR_DEPTH 1000
set ::SQLITE_DEFAULT_FILE_FORMAT 4
set ::bitmask_size 64
set ::tcl_precision 15
set ::testprefix ""
expr {srand(1)}

# Features that the build or this interpreter lacks.
set ::LACKS {api_armor atomicwrite autoreset compileoption_diags crashtest cursorhints debug
    default_autovacuum disablefullfsync diskio explain fts1 fts2 icu incrblob legacyformat
    load_ext lock_proxy_pragmas lookaside ltrim memdebug memorymanage mutex mutex_noop
    oversize_cell_check prefer_proxy_locking scanstatus soundex sqllog stat4 tclvar
    threadsafe2 uint unknown unlock_notify userauth utf16}

proc capable {name} { expr {$name ni $::LACKS} }
proc ifcapable {condition code {else ""} {otherwise ""}} {
    regsub -all {[A-Za-z_0-9]+} $condition {[capable &]} condition
    if {[uplevel #0 [list expr $condition]]} {
        set status [catch {uplevel 1 $code} result options]
    } elseif {$otherwise ne ""} {
        set status [catch {uplevel 1 $otherwise} result options]
    } else {
        return
    }
    if {$status} {dict incr options -level; return -options $options $result}
    return $result
}

proc full_name {name} {
    if {$::testprefix ne "" && [string is digit -strict [string index $name 0]]} {
        return $::testprefix-$name
    }
    return $name
}
proc do_test {name script expected} {
    if {[catch {uplevel #0 $script} result]} {set result "ERROR $result"}
    check [full_name $name] $result $expected
}
proc do_execsql_test {args} {
    set connection db
    if {[lindex $args 0] eq "-db"} {
        set connection [lindex $args 1]
        set args [lrange $args 2 end]
    }
    lassign $args name sql expected
    if {[catch {uplevel 1 [list $connection eval $sql]} result]} {set result "ERROR $result"}
    check [full_name $name] $result [list {*}$expected]
}
proc do_catchsql_test {name sql expected} {
    set status [catch {uplevel 1 [list db eval $sql]} result]
    check [full_name $name] [list $status $result] $expected
}
proc do_timed_execsql_test {args} { uplevel 1 [list do_execsql_test {*}$args] }
proc do_realnum_test {name script expected} {
    if {[catch {uplevel #0 $script} result]} {set result "ERROR $result"}
    check [full_name $name] $result $expected
}
proc integrity_check {name {connection db}} {
    do_test $name [list execsql {PRAGMA integrity_check} $connection] ok
}
proc execsql {sql {connection db}} { uplevel 1 [list $connection eval $sql] }
proc catchsql {sql {connection db}} {
    set status [catch {uplevel 1 [list $connection eval $sql]} result]
    list $status $result
}
proc execsql2 {sql} {
    set result {}
    db eval $sql row { foreach column $row(*) {lappend result $column $row($column)} }
    return $result
}
proc cksum {{connection db}} {
    set text [$connection eval {SELECT name, type, sql FROM sqlite_master ORDER BY name}]\n
    set tables [$connection eval {SELECT name FROM sqlite_master WHERE type='table' ORDER BY name}]
    foreach table $tables { append text [$connection eval "SELECT * FROM \"$table\""]\n }
    return $text
}
proc allcksum {{connection db}} { cksum $connection }
proc reset_db {} {
    catch {db close}
    forcedelete test.db
    sqlite3 db test.db
}
proc finish_test {args} { return -code error FINISHED }
proc sqlite3_connection_pointer {connection} { return $connection }
proc sqlite3_get_autocommit {connection} { $connection autocommit }
proc sqlite3_changes {connection} { $connection changes }
proc sqlite3_exec {connection sql} {
    set status [catch {$connection eval $sql} result]
    list $status $result
}
proc normalize_list {items} { list {*}$items }
proc get_pwd {} { pwd }
proc permutation {} { return "" }
proc presql {} { return "" }
proc isquick {} { return 0 }
proc is_relative_file {name} { return 1 }
proc working_64bit_int {} { return 1 }
proc nonzero_reserved_bytes {} { return 0 }
proc wal_is_wal_mode {} { return 0 }
proc clang_sanitize_address {} { return 0 }
proc set_test_counter {args} { return 0 }
foreach name {do_eqp_test do_faultsim_test do_malloc_test do_ioerr_test extra_schema_checks omit_test
    database_may_be_corrupt database_never_corrupt optimization_control set_testdb breakpoint
    sqlite3_extended_result_codes sqlite3_memdebug_settitle sqlite3_soft_heap_limit
    sqlite3_db_config wal_set_journal_mode wal_check_journal_mode do_not_use_codec
    autoinstall_test_functions memdebug_log_sql delete_all_data} {
    proc $name {args} {}
}

rename source source_file
proc source {name} {
    set leaf [file tail $name]
    if {$leaf in {tester.tcl malloc_common.tcl lock_common.tcl wal_common.tcl thread_common.tcl
            fts3_common.tcl}} return
    uplevel 1 [list source_file $name]
}
rename puts put_line
proc puts {args} {}
